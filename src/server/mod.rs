//! Layer 2: the portal.
