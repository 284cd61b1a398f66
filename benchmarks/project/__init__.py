"""The project whose tasks are run: the same work, whichever package runs it."""
