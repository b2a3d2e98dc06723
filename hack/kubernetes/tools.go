//go:build tools

// Package kubernetes pins the programs of the sandbox's and the tests' control plane: Kubernetes,
// and etcd in the version that this Kubernetes is tested with. It is a module of its own because
// k8s.io/kubernetes needs a replace directive per staging module, which the product's graph must
// not have. `podid sandbox prepare` gets the programs.
package kubernetes

import (
	_ "go.etcd.io/etcd/server/v3"
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager"
	_ "k8s.io/kubernetes/cmd/kube-proxy"
	_ "k8s.io/kubernetes/cmd/kube-scheduler"
	_ "k8s.io/kubernetes/cmd/kubectl"
	_ "k8s.io/kubernetes/cmd/kubelet"
)
