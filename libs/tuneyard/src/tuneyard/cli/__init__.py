"""The command ``tuneyard``. Programs import nothing of it."""
