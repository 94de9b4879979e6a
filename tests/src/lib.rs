//! The house from the street.
