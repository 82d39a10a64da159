//! One core's post office.
pub mod parcel;
