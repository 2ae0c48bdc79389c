"""Small helpers that all other packages may import. They do not import any other package of this project."""
