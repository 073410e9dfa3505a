//! Service registry on etcd v3, in go-micro's layout.
