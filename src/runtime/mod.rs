//! Running Programs: buffers, sessions, threads.
