"""The demo client and server: real sockets, configured delays, and a timestamp before and after every system call."""
