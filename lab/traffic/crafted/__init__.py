"""Crafted traffic: frames with a known truth, scripted TCP and replayed captures, with a timestamp around each send.

This is the only package that uses scapy. What lives here: building and sending frames. What does not: traffic of real
sockets (`lab.traffic.demo`), and the wire's conditions (`lab.network`).
"""
