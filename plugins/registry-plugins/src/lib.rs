//! One registry API, the backend chosen by URL.
