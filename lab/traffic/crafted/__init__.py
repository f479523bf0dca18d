"""Traffic made to measure: frames that say what they are, TCP made by hand, captures replayed; each send stamped.

The only package that knows scapy. What lives here: making frames and sending them. What does not: load by real applications
(`lab.demo`), and what the wire does to frames (`lab.wire`).
"""
