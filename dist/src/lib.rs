//! Where this process stands among its peers.
