//! Service registry on multicast DNS and DNS-SD.
