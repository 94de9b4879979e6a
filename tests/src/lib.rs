//! The house from the street: everything here is in `it/`, one test binary, so that libtorch is linked once.
