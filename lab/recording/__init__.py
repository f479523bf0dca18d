"""Record the events of several programs together, complete or with the number of missing ones."""
