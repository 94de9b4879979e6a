//! The house from the street: one test binary.
