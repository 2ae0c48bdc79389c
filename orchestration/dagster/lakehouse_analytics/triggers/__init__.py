"""What starts runs from outside: a source has news, its events are recorded, and a run is requested."""
