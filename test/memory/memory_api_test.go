// Package memory measures the programs, as built from cmd/, in a cluster that a tenant has filled
// with objects as large as the API server allows.
package memory

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/podid-io/podid/internal/testenv"
	"github.com/podid-io/podid/internal/testnet"
)

const (
	micLimit, nmiLimit = 200, 80 // MiB of resident memory, at its peak

	node      = "giant-0" // one of the nodes
	waitLimit = 3 * time.Minute
)

// giants returns the kinds of large objects: 500 of each with 650 kB of labels, pods with 1.2 MB
// more.
func giants() []struct {
	path  string
	count int
	body  map[string]any
} {
	return []struct {
		path  string
		count int
		body  map[string]any
	}{
		{"/apis/aadpodidentity.k8s.io/v1/namespaces/default/azureidentities", 220, map[string]any{
			"apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentity",
			"spec": map[string]any{
				"type": 1, "tenantID": "contoso.com", "clientID": "99999999-9999-9999-9999-999999999999",
				"clientPassword": map[string]any{"name": "s"},
			},
		}},
		{"/apis/aadpodidentity.k8s.io/v1/namespaces/default/azureidentitybindings", 100, map[string]any{
			"apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentityBinding",
			"spec": map[string]any{"azureIdentity": "giant-0", "selector": "other"},
		}},
		{"/apis/aadpodidentity.k8s.io/v1/namespaces/default/azureassignedidentities", 50, map[string]any{
			"apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureAssignedIdentity",
			"spec": map[string]any{"pod": "nothing", "podNamespace": "default", "nodename": node},
		}},
		{"/apis/aadpodidentity.k8s.io/v1/namespaces/default/azurepodidentityexceptions", 30, map[string]any{
			"apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzurePodIdentityException",
			"spec": map[string]any{"podLabels": map[string]string{"a": "b"}},
		}},
		{"/api/v1/nodes", 50, map[string]any{"apiVersion": "v1", "kind": "Node"}},
		{"/api/v1/namespaces/default/pods", 50, map[string]any{
			"apiVersion": "v1", "kind": "Pod", "spec": map[string]any{
				"nodeName": node, "serviceAccountName": "default", "automountServiceAccountToken": false,
				"containers": []any{map[string]any{"name": "c", "image": "i", "env": []any{
					map[string]any{"name": "V", "value": strings.Repeat("x", 500<<10)},
				}}},
			},
		}},
	}
}

// labels returns 650 kB of labels, and those that the programs select by.
func labels() map[string]string {
	all := map[string]string{"aadpodidbinding": "app", "nodename": node}
	for i := range 4900 {
		all[fmt.Sprintf("x.example/%s-%05d", strings.Repeat("a", 50), i)] = strings.Repeat("b", 63)
	}
	return all
}

// TestMemory checks that both programs start and work within their memory limits when the API
// server sends whole lists (no WatchList, as Kubernetes 1.25 to 1.31), and that what they write
// contains none of the ballast.
func TestMemory(t *testing.T) {
	testenv.Require(t)
	mic, nmi := build(t, "mic"), build(t, "nmi")
	cluster := startCluster(t)
	client, err := kubernetes.NewForConfig(cluster.Config)
	if err != nil {
		t.Fatal(err)
	}
	fill(t, client)

	t.Run("mic", func(t *testing.T) {
		mic := cluster.run(t, mic, func(cmd *exec.Cmd) error { return cmd.Start() }, cluster.Config.Host,
			"--cloudconfig="+cloudConfig(t), "--http-probe-port=0", "--prometheus-port=0")
		mic.await("leading", func() bool { return strings.Contains(mic.log.String(), "msg=leading") })
		mic.await("the type upgrade", func() bool {
			record, err := client.CoreV1().ConfigMaps("default").Get(t.Context(), "aad-pod-identity-config", metav1.GetOptions{})
			return err == nil && record.Data["type-upgrade-status"] != ""
		})
		mic.await("an assigned identity of each pod", func() bool { return assignedTo(t, client) == 50 })
		mic.within(micLimit)
	})
	t.Run("nmi", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("needs root: nmi runs in a network namespace of its own")
		}
		own := testnet.New(t)
		nmi := cluster.run(t, nmi, func(cmd *exec.Cmd) error { return own.Do(cmd.Start) }, forward(t, own, cluster.Config),
			"--node="+node, "--startup-taint=false", "--http-probe-port=18085", "--prometheus-port=19090")
		nmi.await("the caches", func() bool { return strings.Contains(nmi.log.String(), "read the cluster") })
		nmi.within(nmiLimit)
	})
}

// cluster is an API server and the programs.
type cluster struct{ *envtest.Environment }

func startCluster(t *testing.T) *cluster {
	t.Helper()
	env := testenv.Start(t, testenv.WithCRDs, func(env *envtest.Environment) {
		env.ControlPlane.GetAPIServer().Configure().Append("feature-gates", "WatchList=false")
	})
	env.Config.QPS, env.Config.Burst = 1000, 1000
	return &cluster{env}
}

// fill creates the large objects, and a binding of the pods to one of the identities.
func fill(t *testing.T, client *kubernetes.Clientset) {
	t.Helper()
	create := func(path string, body []byte) error {
		return client.RESTClient().Post().AbsPath(path).SetHeader("Content-Type", "application/json").Body(body).Do(t.Context()).Error()
	}
	for path, object := range map[string]string{
		"/api/v1/namespaces/default/serviceaccounts": `{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}`,
		"/apis/aadpodidentity.k8s.io/v1/namespaces/default/azureidentitybindings": `{"apiVersion": "aadpodidentity.k8s.io/v1",
			"kind": "AzureIdentityBinding", "metadata": {"name": "app"}, "spec": {"azureIdentity": "giant-0", "selector": "app"}}`,
	} {
		if err := create(path, []byte(object)); err != nil {
			t.Fatal(err)
		}
	}
	var work errgroup.Group
	work.SetLimit(4)
	for _, giant := range giants() {
		giant.body["metadata"] = map[string]any{"name": "giant-NUMBER", "labels": labels()}
		template, err := json.Marshal(giant.body)
		if err != nil {
			t.Fatal(err)
		}
		for i := range giant.count {
			work.Go(func() error {
				if err := create(giant.path, bytes.Replace(template, []byte("NUMBER"), []byte(strconv.Itoa(i)), 1)); err != nil {
					return fmt.Errorf("create %s %d: %w", giant.path, i, err)
				}
				return nil
			})
		}
	}
	if err := work.Wait(); err != nil {
		t.Fatal(err)
	}
}

// assignedTo counts the assigned identities of the pods. It fails the test if one is large.
func assignedTo(t *testing.T, client *kubernetes.Clientset) int {
	t.Helper()
	raw, err := client.RESTClient().Get().AbsPath("/apis/aadpodidentity.k8s.io/v1/namespaces/default/azureassignedidentities").
		Param("labelSelector", "podnamespace=default").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var list struct{ Items []json.RawMessage }
	if err := json.Unmarshal(raw, &list); err != nil {
		t.Fatal(err)
	}
	for _, item := range list.Items {
		if len(item) > 8<<10 {
			t.Fatalf("an assigned identity has %d kB", len(item)>>10)
		}
	}
	return len(list.Items)
}

// cloudConfig writes the cloud config of an Azure that does not answer.
func cloudConfig(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "azure.json")
	if err := os.WriteFile(path, []byte(`{"cloud": "AzureStackCloud", "tenantId": "11111111-1111-1111-1111-111111111111",
		"aadClientId": "22222222-2222-2222-2222-222222222222", "aadClientSecret": "hunter2"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// forward makes the API server reachable from a network namespace, and returns its address there.
func forward(t *testing.T, from *testnet.Net, config *rest.Config) string {
	t.Helper()
	var listener net.Listener
	err := from.Do(func() (err error) {
		listener, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return "https://" + testenv.NewProxyOn(t, listener, config).Address
}

// program is a running program of this repository.
type program struct {
	t    *testing.T
	name string
	cmd  *exec.Cmd
	log  *testenv.Buffer
}

// build builds a program of cmd/ and returns its path.
func build(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "../../cmd/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, out)
	}
	return path
}

// run starts a program with a kubeconfig of the API server at that address.
func (c *cluster) run(t *testing.T, path string, start func(*exec.Cmd) error, server string, args ...string) *program {
	t.Helper()
	dir := t.TempDir()
	p := &program{t: t, name: filepath.Base(path), log: &testenv.Buffer{}}
	p.cmd = exec.CommandContext(t.Context(), path, append([]string{"--kubeconfig=" + c.kubeconfig(t, dir, server)}, args...)...)
	environment := filepath.Join(dir, "stack.json")
	if err := os.WriteFile(environment, []byte(`{"resourceManagerEndpoint": "https://127.0.0.1:1/", "activeDirectoryEndpoint": "https://127.0.0.1:1/"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	p.cmd.Env = []string{"AZURE_ENVIRONMENT_FILEPATH=" + environment}
	p.cmd.Stderr = p.log
	if err := start(p.cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	})
	return p
}

func (c *cluster) kubeconfig(t *testing.T, dir, server string) string {
	t.Helper()
	config, err := clientcmd.Load(c.KubeConfig)
	if err != nil {
		t.Fatal(err)
	}
	for _, cluster := range config.Clusters {
		cluster.Server = server
	}
	path := filepath.Join(dir, "kubeconfig")
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// await waits for something that the program does.
func (p *program) await(what string, done func() bool) {
	p.t.Helper()
	err := wait.PollUntilContextTimeout(p.t.Context(), 100*time.Millisecond, waitLimit, true, func(context.Context) (bool, error) { return done(), nil })
	if err != nil {
		p.t.Fatalf("%s: %s: %v; log:\n%s", p.name, what, err, p.log)
	}
}

// within reports the program's peak of resident memory, and fails the test from the limit on.
// Both are in MiB.
func (p *program) within(limit int) {
	p.t.Helper()
	peak := testnet.MostMemory(p.t, p.cmd.Process.Pid)
	p.t.Logf("%s: %d MiB at the peak", p.name, peak)
	if peak >= limit {
		p.t.Errorf("%s: %d MiB at the peak, the limit is %d MiB", p.name, peak, limit)
	}
}
