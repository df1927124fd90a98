//! The field side: adapters that turn what devices say into readings and carry commands to them.
