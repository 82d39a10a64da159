//! One core's post office.
pub mod effect;
pub mod input;
pub mod parcel;
