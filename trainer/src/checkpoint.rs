//! A
mod manifest;
mod shelf;
