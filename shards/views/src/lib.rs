//! Decode images, draw views and masks, render them as the reference does.
