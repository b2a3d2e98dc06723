// The API server, and the emulated Azure.

package stage

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
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/emulator/control"
	"github.com/podid-io/podid/internal/emulator/world"
)

// Stage is an API server with podid's CRDs and an emulated Azure.
type Stage struct {
	// Dir is the folder of its files, in memory if there is room; Logs is the folder of the programs'
	// logs.
	Dir, Logs string
	Kube      kubernetes.Interface
	Objects   client.Client
	Azure     *control.Client
	env       *envtest.Environment
	programs  []*Program
	groups    string // the folders of Groups and BPF, once made
	bpf       string
}

// New creates the folders. Call Remove to remove everything.
func New(logs string) (*Stage, error) {
	// In memory if there is room: a disk that other programs use would influence the figures.
	dir, err := os.MkdirTemp("/dev/shm", "podid-bench-")
	if err != nil {
		dir, err = os.MkdirTemp("", "podid-bench-")
	}
	if err != nil {
		return nil, fmt.Errorf("make a folder: %w", err)
	}
	s := &Stage{Dir: dir, Logs: dir}
	if logs != "" {
		s.Logs = logs
		if err := os.MkdirAll(logs, 0o755); err != nil {
			return nil, errors.Join(fmt.Errorf("make a folder for logs: %w", err), os.RemoveAll(dir))
		}
	}
	return s, nil
}

// Remove stops and removes everything, also after a failure.
func (s *Stage) Remove() error {
	var err error
	for _, p := range s.programs {
		err = errors.Join(err, p.Stop(syscall.SIGTERM))
	}
	if s.env != nil {
		err = errors.Join(err, s.env.Stop())
	}
	return errors.Join(err, s.removeGroups(), s.unmountBPF(), os.RemoveAll(s.Dir))
}

// Start starts a program that ends with the stage.
func (s *Stage) Start(l Launch) (*Program, error) {
	l.Logs = s.Logs
	p, err := l.Start()
	if err == nil {
		s.programs = append(s.programs, p)
	}
	return p, err
}

// StartAzure starts the emulated Azure with that world; podid is the path of the program.
func (s *Stage) StartAzure(podid string, doc world.Document, args ...string) error {
	text, err := doc.Marshal()
	if err != nil {
		return fmt.Errorf("write the emulated Azure's world: %w", err)
	}
	file := filepath.Join(s.Dir, "world.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return fmt.Errorf("write the emulated Azure's world: %w", err)
	}
	args = append([]string{"emulator", "--dir=" + s.AzureFile(""), "--world=" + file, "-o=json"}, args...)
	p, err := s.Start(Launch{Name: "azure", Path: podid, Args: args, Talks: true})
	if err != nil {
		return err
	}
	var endpoints struct {
		Control string `json:"control"`
	}
	err = json.NewDecoder(p.Out()).Decode(&endpoints)
	if err != nil {
		return fmt.Errorf("start the emulated Azure: %w: %s", err, p.Tail())
	}
	s.Azure = control.NewClient(endpoints.Control)
	return nil
}

// AzureFile returns the path of a file that the emulated Azure writes for its clients.
func (s *Stage) AzureFile(name string) string { return filepath.Join(s.Dir, "azure", name) }

// StartKubernetes starts the API server with podid's CRDs; flags alternates names and values.
func (s *Stage) StartKubernetes(ctx context.Context, flags ...string) error {
	ctrl.SetLogger(logr.Discard())
	data := filepath.Join(s.Dir, "etcd")
	if err := os.Mkdir(data, 0o700); err != nil {
		return fmt.Errorf("make a folder for etcd: %w", err)
	}
	env := &envtest.Environment{
		CRDDirectoryPaths: []string{filepath.Join("config", "crd")}, ErrorIfCRDPathMissing: true,
		ControlPlaneStartTimeout: time.Minute,
	}
	env.ControlPlane.Etcd = &envtest.Etcd{DataDir: data}
	arguments := env.ControlPlane.GetAPIServer().Configure().
		Append("advertise-address", "127.0.0.1").Append("endpoint-reconciler-type", "none") // there is no other address here
	for i := 0; i+1 < len(flags); i += 2 {
		arguments.Append(flags[i], flags[i+1])
	}
	config, err := env.Start()
	if err != nil {
		_ = env.Stop() // started processes do not end by themselves; the first error is the one to report
		return fmt.Errorf("start the API server (KUBEBUILDER_ASSETS names the folder with kube-apiserver and etcd, make bench sets it): %w", err)
	}
	s.env = env
	if err := s.connect(config); err != nil {
		return err
	}
	return s.warm(ctx)
}

// warm reads each of podid's kinds once. An API server that has just started answers the first
// request about a kind with 429 and Retry-After: 1. The rows are about one that has been running.
func (s *Stage) warm(ctx context.Context) error {
	for _, list := range []client.ObjectList{
		&v1.AzureIdentityList{}, &v1.AzureIdentityBindingList{}, &v1.AzureAssignedIdentityList{},
		&v1.AzurePodIdentityExceptionList{}, &v1.AzureIdentityPolicyList{},
	} {
		if err := s.Objects.List(ctx, list); err != nil {
			return fmt.Errorf("list %T: %w", list, err)
		}
	}
	return nil
}

// Config returns the benchmark's configuration for the API server.
func (s *Stage) Config() *rest.Config { return s.env.Config }

func (s *Stage) connect(config *rest.Config) error {
	config = rest.CopyConfig(config)
	config.QPS = -1 // the benchmark limits itself
	scheme := runtime.NewScheme()
	err := v1.AddToScheme(scheme)
	if err == nil {
		s.Objects, err = client.New(config, client.Options{Scheme: scheme})
	}
	if err == nil {
		config.ContentType = "application/vnd.kubernetes.protobuf"
		s.Kube, err = kubernetes.NewForConfig(config)
	}
	if err != nil {
		return fmt.Errorf("talk to the API server: %w", err)
	}
	return nil
}

// Namespace creates a namespace.
func (s *Stage) Namespace(ctx context.Context, name string) error {
	_, err := s.Kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create namespace %s: %w", name, err)
	}
	return nil
}

// ServiceAccount creates a service account, a token like that of a pod, and a kubeconfig, whose
// path it returns. The account may do everything, since permissions are not measured.
func (s *Stage) ServiceAccount(ctx context.Context, namespace, name string) (string, error) {
	if err := s.Namespace(ctx, namespace); err != nil {
		return "", err
	}
	accounts := s.Kube.CoreV1().ServiceAccounts(namespace)
	if _, err := accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		return "", fmt.Errorf("create service account %s: %w", name, err)
	}
	_, err := s.Kube.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: name, Namespace: namespace}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
	}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("give %s its rights: %w", name, err)
	}
	token, err := accounts.CreateToken(ctx, name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("make a token for %s: %w", name, err)
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["bench"] = &clientcmdapi.Cluster{Server: s.env.Config.Host, CertificateAuthorityData: s.env.Config.CAData}
	config.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: token.Status.Token}
	config.Contexts["bench"] = &clientcmdapi.Context{Cluster: "bench", AuthInfo: name}
	config.CurrentContext = "bench"
	file := filepath.Join(s.Dir, name+".kubeconfig")
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		return "", fmt.Errorf("write the kubeconfig of %s: %w", name, err)
	}
	return file, nil
}
