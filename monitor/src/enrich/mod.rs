//! What a record cannot hold: process chains, rule names.
