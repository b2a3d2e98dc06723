// A cluster for one row: an API server with its etcd, and the emulated Azure.

package mic

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/test/bench/stage"
)

const (
	// micUser is MIC's user at the API server: a service account as in a real cluster, which costs a
	// small part of its work.
	micNamespace, micName = "podid", "mic"
	micUser               = "system:serviceaccount:" + micNamespace + ":" + micName
	// auditPolicy logs only the writes of MIC.
	auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  users: ["` + micUser + `"]
  verbs: [create, update, patch, delete, deletecollection]
- level: None
`
)

// cluster is the environment of a row.
type cluster struct {
	*stage.Stage
	micKubeconfig string
	seen          *seen
	audit         *audit
}

// with creates a cluster, calls f with it, and removes it.
func (b *bench) with(ctx context.Context, s shape, f func(*cluster) error) (err error) {
	c := &cluster{}
	if c.Stage, err = stage.New(b.options.logs); err != nil {
		return err
	}
	defer func() {
		if c.seen != nil {
			c.seen.stop()
		}
		err = errors.Join(err, c.Remove())
	}()
	if err := c.StartAzure(filepath.Join(b.options.Bin, "podid"), s.world()); err != nil {
		return err
	}
	policy := filepath.Join(c.Dir, "audit.yaml")
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o600); err != nil {
		return fmt.Errorf("write the audit policy: %w", err)
	}
	c.audit = &audit{file: filepath.Join(c.Logs, "audit.log")}
	_ = os.Remove(c.audit.file) // from an earlier row
	if err := c.StartKubernetes(ctx, "audit-policy-file", policy, "audit-log-path", c.audit.file); err != nil {
		return err
	}
	if c.micKubeconfig, err = c.ServiceAccount(ctx, micNamespace, micName); err != nil {
		return err
	}
	if c.seen, err = follow(ctx, c.Config()); err != nil {
		return err
	}
	if err := c.fill(ctx, s); err != nil {
		return err
	}
	return f(c)
}

// forget removes what MIC has written, so that the next MIC starts from nothing.
func (c *cluster) forget(ctx context.Context) error {
	namespaces, err := c.Kube.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list namespaces: %w", err)
	}
	for _, n := range namespaces.Items {
		if err := c.Objects.DeleteAllOf(ctx, &v1.AzureAssignedIdentity{}, client.InNamespace(n.Name)); err != nil {
			return fmt.Errorf("remove the assigned identities: %w", err)
		}
	}
	if err := c.Kube.CoordinationV1().Leases("default").DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		return fmt.Errorf("remove the lease: %w", err)
	}
	if err := c.Kube.CoreV1().ConfigMaps("default").DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		return fmt.Errorf("remove the ledgers: %w", err)
	}
	return c.Azure.Reset(ctx)
}
