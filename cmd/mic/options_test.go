package main

import (
	"errors"
	"flag"
	"io"
	"strings"
	"testing"
	"time"
)

func noEnv(string) string { return "" }

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name string
		args string
		env  map[string]string
		want func(*options) bool
	}{
		{"defaults", "", nil, func(o *options) bool {
			return o.ForceNamespaced && o.identities.grace == 10*time.Minute && o.ProbePort == "8080" &&
				o.MetricsPort == "8888" && o.election.name == "aad-pod-identity-mic" && o.election.namespace == "default" &&
				o.election.duration == 6*time.Second && strings.HasSuffix(o.election.instance, "_8080") && o.kubernetes.podNamespace == "default" &&
				o.kubernetes.qps == 0 && o.azure.driftInterval == 3*time.Minute && o.kubernetes.configMap == "aad-pod-identity-config"
		}},
		{"one dash and two", "-prometheus-port=1 --http-probe-port 2", nil, func(o *options) bool {
			return o.MetricsPort == "1" && o.ProbePort == "2"
		}},
		{"not namespaced", "--forceNamespaced=false", nil, func(o *options) bool { return !o.ForceNamespaced }},
		{"environment demands namespaced", "--forceNamespaced=false", map[string]string{"FORCENAMESPACED": "true"}, func(o *options) bool { return o.ForceNamespaced }},
		{"environment allows all", "", map[string]string{"FORCENAMESPACED": "false"}, func(o *options) bool { return !o.ForceNamespaced }},
		{"flag demands namespaced", "--forceNamespaced", map[string]string{"FORCENAMESPACED": "false"}, func(o *options) bool { return o.ForceNamespaced }},
		{"kubeconfig from environment", "", map[string]string{"KUBECONFIG": "/k"}, func(o *options) bool { return o.Kubeconfig == "/k" }},
		{"kubeconfig by flag", "--kubeconfig=/f", map[string]string{"KUBECONFIG": "/k"}, func(o *options) bool { return o.Kubeconfig == "/f" }},
		{"namespace of the ledger", "", map[string]string{"MIC_POD_NAMESPACE": "podid"}, func(o *options) bool { return o.kubernetes.podNamespace == "podid" }},
		{"named cloud config need not exist yet", "--cloudconfig=/nowhere/azure.json", nil, func(o *options) bool { return o.azure.cloudConfig == "/nowhere/azure.json" }},
		{"immutable", "--immutable-user-msis=a,b", nil, func(o *options) bool { return strings.Join(o.identities.immutables(), " ") == "a b" }},
		{"all protect", "--immutable-user-msis=AAAAAAAA-1111-2222-3333-444444444444," +
			"/subscriptions/11111111-1111-1111-1111-111111111111/resourcegroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/web", nil, func(o *options) bool {
			return len(o.identities.unprotecting()) == 0
		}},
		{"typos protect nothing", "--immutable-user-msis=notanid,11111111-1111-1111-1111-111111111111,/sub/x", nil, func(o *options) bool {
			return strings.Join(o.identities.unprotecting(), " ") == "notanid /sub/x"
		}},
		{"deprecated", "--enableScaleFeatures --update-user-msi-max-retry=5 -logtostderr -vmodule=a=1", nil, func(o *options) bool {
			return strings.Join(o.Deprecated, " ") == "enableScaleFeatures logtostderr update-user-msi-max-retry vmodule"
		}},
		{"type upgrade", "", nil, func(o *options) bool {
			return o.kubernetes.typeUpgrade && o.kubernetes.upgradeKey == "type-upgrade-status"
		}},
		{"no type upgrade", "--enable-type-upgrade=false --type-upgrade-status-key=x", nil, func(o *options) bool { return !o.kubernetes.typeUpgrade && o.kubernetes.upgradeKey == "x" }},
		{"all of v1.8.17", "--kubeconfig= --cloudconfig=/c --forceNamespaced=true --syncRetryDuration=3600s --leader-election-instance=i " +
			"--leader-election-namespace=n --leader-election-name=l --leader-election-duration=15s --http-probe-port=8080 --prometheus-port=8888 " +
			"--enableProfile --enableScaleFeatures=true --createDeleteBatch=20 --clientQps=5 --immutable-user-msis= --config-map-name=c " +
			"--enable-type-upgrade --type-upgrade-status-key=s --update-user-msi-max-retry=2 --update-user-msi-retry-interval=1s " +
			"--identity-assignment-reconcile-interval=3m --logging-format=json --v=2", nil, func(o *options) bool {
			return o.Profile && o.LogFormat == "json" && o.Verbosity == 2 && o.kubernetes.qps == 5 && o.election.instance == "i"
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := &options{}
			err := o.parse(strings.Fields(c.args), func(name string) string { return c.env[name] }, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			if !c.want(o) {
				t.Errorf("options %+v", o)
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	for _, c := range []struct {
		name, args string
		env        map[string]string
		want       []string
	}{
		{"unknown flag", "--bogus", nil, []string{"bogus"}},
		{"no number", "--createDeleteBatch=many", nil, []string{"createDeleteBatch", "many"}},
		{"no duration", "--syncRetryDuration=60", nil, []string{"syncRetryDuration", "60"}},
		{"argument", "serve", nil, []string{`unexpected argument "serve"`}},
		{"port", "--http-probe-port=http", nil, []string{"--http-probe-port", "from 1 to 65535"}},
		{"port too high", "--prometheus-port=70000", nil, []string{"--prometheus-port"}},
		{"format", "--logging-format=xml", nil, []string{"--logging-format", "text", "json"}},
		{"environment", "", map[string]string{"FORCENAMESPACED": "maybe"}, []string{"FORCENAMESPACED", "true or false"}},
		{"lease too short", "--leader-election-duration=1s", nil, []string{"4s"}},
		{"name", "--config-map-name=A_B", nil, []string{"--config-map-name"}},
		{"grace", "--identity-detach-grace-period=-1s", nil, []string{"0 or more"}},
		{"preassigners", "--preassign-namespaces=a,B_C", nil, []string{"--preassign-namespaces", "B_C"}},
		{"all at once", "--clientQps=-1 --createDeleteBatch=-1 --http-probe-port=x", nil, []string{"--clientQps", "--createDeleteBatch", "--http-probe-port"}},
		{"unknown among others", "--bogus --clientQps=-1", nil, []string{"-bogus", "--clientQps=-1"}},
		{"unknown with a value", "--bogus x --clientQps=-1 --createDeleteBatch=many ---y -also", nil, []string{"-bogus", "--clientQps", "many", "---y", "-also"}},
		{"argument among others", "--clientQps=-1 serve", nil, []string{`unexpected argument "serve"`, "--clientQps"}},
		{"help too late", "--bogus --help", nil, []string{"bogus"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := new(options).parse(strings.Fields(c.args), func(name string) string { return c.env[name] }, io.Discard)
			if err == nil {
				t.Fatal("accepted")
			}
			if n := strings.Count(err.Error(), "createDeleteBatch"); n > 1 {
				t.Errorf("error %q says the same %d times", err, n)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
}

func TestUsage(t *testing.T) {
	var out strings.Builder
	if err := new(options).parse([]string{"--help"}, noEnv, &out); !errors.Is(err, flag.ErrHelp) {
		t.Fatal(err)
	}
	for _, want := range []string{"Usage: mic", "-identity-detach-grace-period", "without meaning: ", "enableScaleFeatures", "FORCENAMESPACED"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("usage lacks %q", want)
		}
	}
}
