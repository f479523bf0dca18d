"""A lab that builds a network, causes delays it knows exactly, attaches TCP probes and judges every number they print."""
