"""The demo client and server: real sockets, delays on purpose, every system call stamped."""
