//! Any file descriptor, polled beside the stop descriptor.
