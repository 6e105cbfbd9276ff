//! A local directory as the remote: for tests of everything above the network.
