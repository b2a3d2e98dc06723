// A cluster for one row: an API server with its etcd, and the emulated Azure.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/emulator/control"
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
	dir, logs     string
	env           *envtest.Environment
	kube          kubernetes.Interface
	objects       client.Client
	micKubeconfig string
	azure         *control.Client
	programs      []*program
	seen          *seen
	audit         *audit
}

func (c *cluster) azureFile(name string) string { return filepath.Join(c.dir, "azure", name) }

// with creates a cluster, calls f with it, and removes it.
func (b *bench) with(ctx context.Context, s shape, f func(*cluster) error) (err error) {
	// In memory if there is room: a disk that other programs use would influence the figures.
	dir, err := os.MkdirTemp("/dev/shm", "podid-bench-")
	if err != nil {
		dir, err = os.MkdirTemp("", "podid-bench-")
	}
	if err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	c := &cluster{dir: dir, logs: dir}
	if b.options.logs != "" {
		c.logs = b.options.logs
		if err := os.MkdirAll(c.logs, 0o755); err != nil {
			return fmt.Errorf("make a folder for logs: %w", err)
		}
	}
	defer func() { err = errors.Join(err, c.remove()) }()
	if err := c.startAzure(b, s); err != nil {
		return err
	}
	if err := c.startKubernetes(ctx); err != nil {
		return err
	}
	if c.seen, err = follow(ctx, c.env.Config); err != nil {
		return err
	}
	if err := c.fill(ctx, s); err != nil {
		return err
	}
	return f(c)
}

// remove stops everything, also after a failure.
func (c *cluster) remove() error {
	var err error
	for _, p := range c.programs {
		err = errors.Join(err, p.stop(syscall.SIGTERM))
	}
	if c.seen != nil {
		c.seen.stop()
	}
	if c.env != nil {
		err = errors.Join(err, c.env.Stop())
	}
	return errors.Join(err, os.RemoveAll(c.dir))
}

// startAzure starts the emulated Azure with the world of that shape.
func (c *cluster) startAzure(b *bench, s shape) error {
	doc := s.world()
	text, err := doc.Marshal()
	if err != nil {
		return fmt.Errorf("write the emulated Azure's world: %w", err)
	}
	file := filepath.Join(c.dir, "world.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return fmt.Errorf("write the emulated Azure's world: %w", err)
	}
	p, out, err := c.launch("azure", filepath.Join(b.options.bin, "podid"), nil, "emulator", "--dir="+filepath.Join(c.dir, "azure"), "--world="+file, "-o=json")
	if err != nil {
		return err
	}
	var endpoints struct {
		Control string `json:"control"`
	}
	err = json.NewDecoder(out).Decode(&endpoints)
	p.await()
	if err != nil {
		return fmt.Errorf("start the emulated Azure: %w: %s", err, tail(p.log))
	}
	c.azure = control.NewClient(endpoints.Control)
	return nil
}

// startKubernetes starts the API server with podid's CRDs.
func (c *cluster) startKubernetes(ctx context.Context) error {
	ctrl.SetLogger(logr.Discard())
	policy := filepath.Join(c.dir, "audit.yaml")
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o600); err != nil {
		return fmt.Errorf("write the audit policy: %w", err)
	}
	c.audit = &audit{file: filepath.Join(c.logs, "audit.log")}
	_ = os.Remove(c.audit.file) // from an earlier row
	data := filepath.Join(c.dir, "etcd")
	if err := os.Mkdir(data, 0o700); err != nil {
		return fmt.Errorf("make a folder for etcd: %w", err)
	}
	env := &envtest.Environment{
		CRDDirectoryPaths: []string{filepath.Join("config", "crd")}, ErrorIfCRDPathMissing: true,
		ControlPlaneStartTimeout: time.Minute,
	}
	env.ControlPlane.Etcd = &envtest.Etcd{DataDir: data}
	env.ControlPlane.GetAPIServer().Configure().
		Append("audit-policy-file", policy).Append("audit-log-path", c.audit.file).
		Append("advertise-address", "127.0.0.1").Append("endpoint-reconciler-type", "none") // there is no other address here
	kube, err := env.Start()
	if err != nil {
		_ = env.Stop() // started processes do not end by themselves; the first error is the one to report
		return fmt.Errorf("start the API server (KUBEBUILDER_ASSETS names the folder with kube-apiserver and etcd, make bench sets it): %w", err)
	}
	c.env = env
	return c.connect(ctx, kube)
}

// connect creates the clients.
func (c *cluster) connect(ctx context.Context, kube *rest.Config) error {
	kube = rest.CopyConfig(kube)
	kube.QPS = -1 // the benchmark limits itself
	scheme, err := newScheme()
	if err != nil {
		return err
	}
	if c.objects, err = client.New(kube, client.Options{Scheme: scheme}); err != nil {
		return fmt.Errorf("talk to the API server: %w", err)
	}
	kube.ContentType = "application/vnd.kubernetes.protobuf"
	if c.kube, err = kubernetes.NewForConfig(kube); err != nil {
		return fmt.Errorf("talk to the API server: %w", err)
	}
	return c.makeMICUser(ctx, kube)
}

// makeMICUser creates MIC's service account, a token like that of a pod, and a kubeconfig. The
// account may do everything, since permissions are not measured.
func (c *cluster) makeMICUser(ctx context.Context, kube *rest.Config) error {
	if err := client.IgnoreAlreadyExists(c.namespace(ctx, micNamespace)); err != nil {
		return fmt.Errorf("create namespace %s: %w", micNamespace, err)
	}
	accounts := c.kube.CoreV1().ServiceAccounts(micNamespace)
	if _, err := accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: micName}}, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create MIC's service account: %w", err)
	}
	_, err := c.kube.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: micName},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: micName, Namespace: micNamespace}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("give MIC its rights: %w", err)
	}
	token, err := accounts.CreateToken(ctx, micName, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("make MIC's token: %w", err)
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["bench"] = &clientcmdapi.Cluster{Server: kube.Host, CertificateAuthorityData: kube.CAData}
	config.AuthInfos[micName] = &clientcmdapi.AuthInfo{Token: token.Status.Token}
	config.Contexts["bench"] = &clientcmdapi.Context{Cluster: "bench", AuthInfo: micName}
	config.CurrentContext = "bench"
	c.micKubeconfig = filepath.Join(c.dir, "mic.kubeconfig")
	if err := clientcmd.WriteToFile(*config, c.micKubeconfig); err != nil {
		return fmt.Errorf("write MIC's kubeconfig: %w", err)
	}
	return nil
}

// forget removes what MIC has written, so that the next MIC starts from nothing.
func (c *cluster) forget(ctx context.Context) error {
	namespaces, err := c.kube.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list namespaces: %w", err)
	}
	for _, n := range namespaces.Items {
		if err := c.objects.DeleteAllOf(ctx, &v1.AzureAssignedIdentity{}, client.InNamespace(n.Name)); err != nil {
			return fmt.Errorf("remove the assigned identities: %w", err)
		}
	}
	if err := c.kube.CoordinationV1().Leases("default").DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		return fmt.Errorf("remove the lease: %w", err)
	}
	if err := c.kube.CoreV1().ConfigMaps("default").DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		return fmt.Errorf("remove the ledgers: %w", err)
	}
	return c.azure.Reset(ctx)
}
