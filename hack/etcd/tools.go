//go:build tools

// Package etcd pins the database of the sandbox's and the tests' API server. It is a module of its own, so that none
// of what it needs enters the product's graph. Debian's etcd 3.4 would do for reads and writes, but it cannot tell an
// API server how far its watches are: watches on quiet resources then hang.
package etcd

import _ "go.etcd.io/etcd/server/v3"
