//! The client against scripted and random servers.
