//! Layer 2: the part on each host of the pool.
