"""Copies tables of operational databases into raw tables. `sync.py` begins with how a sync decides what it reads."""
