//go:build tools

// Package kubernetes pins the Kubernetes programs that the sandbox and the
// API-server tests run. It is a module of its own: k8s.io/kubernetes needs a
// replace directive per staging module, and none of that belongs in the
// product's graph. `make kubernetes` builds them.
package kubernetes

import (
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager"
	_ "k8s.io/kubernetes/cmd/kube-proxy"
	_ "k8s.io/kubernetes/cmd/kube-scheduler"
	_ "k8s.io/kubernetes/cmd/kubectl"
	_ "k8s.io/kubernetes/cmd/kubelet"
)
