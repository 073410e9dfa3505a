//! The records that go-micro programs write to etcd, ZooKeeper and Consul, read and written.
