"""How commands write: files, pictures, the terminal."""
