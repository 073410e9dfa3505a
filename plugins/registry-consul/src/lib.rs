//! Service registry on the agent of Consul.
