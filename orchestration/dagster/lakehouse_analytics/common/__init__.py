"""Small helpers that every other package may import. They import nothing of this one."""
