//! Events as they are recorded.
