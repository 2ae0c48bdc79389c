"""`lakehouse`, the command line."""

from lakehouse_analytics.cli.commands import main as main
