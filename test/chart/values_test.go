package chart

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// Wrong values stop helm, with a message that names the right ones.
func TestWrongValues(t *testing.T) {
	for name, test := range map[string]struct {
		set  []string
		want []string
	}{
		"operation mode":   {[]string{"operationMode=managd"}, []string{"/operationMode", "'standard', 'managed'"}},
		"forceNamespaced":  {[]string{"forceNamespaced=maybe"}, []string{"/forceNamespaced", "true"}},
		"logging format":   {[]string{"nmi.loggingFormat=xml"}, []string{"/nmi/loggingFormat", "'text', 'json'"}},
		"duration":         {[]string{"mic.leaderElection.duration=soon"}, []string{"/mic/leaderElection/duration", "soon"}},
		"preassigners":     {[]string{"mic.preassignNamespaces={Team_1}"}, []string{"/mic/preassignNamespaces", "Team_1"}},
		"prefetch a list":  {[]string{"nmi.prefetchResources=https://vault.azure.net"}, []string{"/nmi/prefetchResources"}},
		"prefetch a space": {[]string{"nmi.prefetchResources={https://a b}"}, []string{"/nmi/prefetchResources"}},
		"port":             {[]string{"nmi.probePort=99999"}, []string{"/nmi/probePort", "65,535"}},
		"address":          {[]string{"nmi.prometheusAddress=localhost"}, []string{"/nmi/prometheusAddress", "localhost"}},
		"relative path":    {[]string{"mic.cloudConfig=azure.json"}, []string{"/mic/cloudConfig"}},
		"socket's folder":  {[]string{"nmi.hostToken.socket=/host.sock"}, []string{"/nmi/hostToken/socket"}},
		"pull policy":      {[]string{"image.imagePullPolicy=always"}, []string{"/image/imagePullPolicy", "'Always'"}},
		"VM type":          {[]string{"adminsecret.vmType=vms"}, []string{"/adminsecret/vmType", "'vmss'"}},
		"identity type":    {[]string{"azureIdentities.a.type=9"}, []string{"/azureIdentities/a/type"}},
		"old images":       {[]string{"image.repository=mcr.microsoft.com/oss/azure/aad-pod-identity"}, []string{"aad-pod-identity", "-f"}},
		"half a principal": {[]string{"adminsecret.tenantID=a", "adminsecret.clientID=b"}, []string{"adminsecret.clientSecret missing", "useMSI"}},
		"no binding":       {[]string{"azureIdentities.a.type=0"}, []string{"a has no binding", "aadpodidbinding"}},
		"no selector":      {[]string{"azureIdentities.a.binding.name=b"}, []string{"a has no binding.selector"}},
		"limit, no MIC":    {[]string{"operationMode=managed", "federation.limitToNodes=true"}, []string{"federation.limitToNodes needs operationMode standard"}},
		"brokers at home":  {[]string{"federation.namespace=podid-system"}, []string{"brokers need one of their own"}},
		"broker namespace": {[]string{"federation.namespace=A.b"}, []string{"/federation/namespace"}},
		"capture":          {[]string{"nmi.capture=pods"}, []string{"/nmi/capture", "'prefer'"}},
		"no pod labels":    {[]string{"podIdentityExceptions.a.name=b"}, []string{"podIdentityExceptions.a.podLabels"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := template(t, "--set", strings.Join(test.set, ","))
			if err == nil {
				t.Fatal("the chart rendered")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %q: %v", want, err)
				}
			}
		})
	}
}

// legacyValues lists all values of the aad-pod-identity chart 4.1.18.
const legacyValues = `nameOverride fullnameOverride image.repository image.imagePullPolicy customLabels imagePullSecrets forceNamespaced
forceNameSpaced installMICException installCRDs customUserAgent operationMode adminsecret.cloud adminsecret.subscriptionID
adminsecret.resourceGroup adminsecret.vmType adminsecret.tenantID adminsecret.clientID adminsecret.clientSecret adminsecret.useMSI
adminsecret.userAssignedMSIClientID mic.image mic.tag mic.priorityClassName mic.logVerbosity mic.loggingFormat mic.replicas
mic.resources mic.podAnnotations mic.podLabels mic.nodeSelector mic.tolerations mic.affinity mic.topologySpreadConstraints
mic.podDisruptionBudget mic.leaderElection.instance mic.leaderElection.namespace mic.leaderElection.name mic.leaderElection.duration
mic.probePort mic.syncRetryDuration mic.immutableUserMSIs mic.createDeleteBatch mic.clientQps mic.prometheusPort mic.cloudConfig
mic.customCloud.enabled mic.customCloud.configPath mic.updateUserMSIMaxRetry mic.updateUserMSIRetryInterval
mic.identityAssignmentReconcileInterval nmi.image nmi.tag nmi.priorityClassName nmi.logVerbosity nmi.loggingFormat nmi.resources
nmi.updateStrategy nmi.podAnnotations nmi.podLabels nmi.nodeSelector nmi.tolerations nmi.affinity
nmi.ipTableUpdateTimeIntervalInSeconds nmi.micNamespace nmi.probePort nmi.retryAttemptsForCreated nmi.retryAttemptsForAssigned
nmi.findIdentityRetryIntervalInSeconds nmi.enableScaleFeatures nmi.prometheusPort nmi.blockInstanceMetadata
nmi.metadataHeaderRequired nmi.allowNetworkPluginKubenet nmi.kubeletConfig nmi.setRetryAfterHeader nmi.enableConntrackDeletion
rbac.enabled rbac.allowAccessToSecrets rbac.pspEnabled rbac.createUserFacingClusterRoles azureIdentities podIdentityExceptions
podMonitor.enabled podMonitor.labels podMonitor.annotations podMonitor.interval podMonitor.scrapeTimeout`

// Every value, the old chart's and the new ones, is in the schema and has a row in the README.
func TestValuesKnown(t *testing.T) {
	values := map[string]bool{}
	for name := range strings.FieldsSeq(legacyValues) {
		values[name] = true
	}
	for _, name := range defaults(t) {
		values[name] = true
	}
	readme := read(t, "README.md")
	schema := schemaNames(t)
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if !strings.Contains(readme, "`"+name+"`") {
			t.Errorf("charts/podid/README.md has no row for %s", name)
		}
		if !schema[name] {
			t.Errorf("values.schema.json does not know %s", name)
		}
	}
}

// The chart's CRDs are the generated ones.
func TestCRDsFresh(t *testing.T) {
	const generated = "../../config/crd"
	want, got := folder(t, generated), folder(t, filepath.Join(chartDir, "crds"))
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got[name] != want[name] {
			t.Errorf("charts/podid/crds/%s is not that of config/crd: run make generate", name)
		}
		delete(got, name)
	}
	for name := range got {
		t.Errorf("charts/podid/crds/%s is not in config/crd: delete it", name)
	}
}

// defaults returns the names in values.yaml. A map that users fill (empty here, or of another API)
// counts as one.
func defaults(t *testing.T) []string {
	t.Helper()
	var values map[string]any
	if err := yaml.Unmarshal([]byte(read(t, "values.yaml")), &values); err != nil {
		t.Fatal(err)
	}
	opaque := []string{"resources", "affinity", "nodeSelector", "podDisruptionBudget", "updateStrategy"}
	var names []string
	var walk func(prefix string, section map[string]any)
	walk = func(prefix string, section map[string]any) {
		for key, value := range section {
			inner, ok := value.(map[string]any)
			if ok && len(inner) > 0 && !slices.Contains(opaque, key) {
				walk(prefix+key+".", inner)
				continue
			}
			if prefix+key != "adminsecret" { // its fields are named one by one
				names = append(names, prefix+key)
			}
		}
	}
	walk("", values)
	return names
}

// schemaNames returns the names in values.schema.json.
func schemaNames(t *testing.T) map[string]bool {
	t.Helper()
	type node struct {
		Properties map[string]json.RawMessage `json:"properties"`
	}
	names := map[string]bool{}
	var walk func(prefix string, raw json.RawMessage)
	walk = func(prefix string, raw json.RawMessage) {
		var section node
		if err := json.Unmarshal(raw, &section); err != nil {
			t.Fatal(fmt.Errorf("parse values.schema.json: %w", err))
		}
		for key, inner := range section.Properties {
			names[prefix+key] = true
			walk(prefix+key+".", inner)
		}
	}
	walk("", json.RawMessage(read(t, "values.schema.json")))
	return names
}

// read reads a file of the chart.
func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(chartDir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// folder reads the files of a folder, by name.
func folder(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, entry := range entries {
		data, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[entry.Name()] = string(data)
	}
	return files
}

// An empty list of namespaces selects no namespace.
func TestPreassignNamespaces(t *testing.T) {
	for set, want := range map[string]string{
		"mic.replicas=2":                    "",
		"mic.preassignNamespaces={}":        "--preassign-namespaces=",
		"mic.preassignNamespaces={a,b-1}":   "--preassign-namespaces=a,b-1",
		"mic.preassignNamespaces={\\*}":     "",
		"mic.preassignNamespaces={\\*,one}": "--preassign-namespaces=*,one",
	} {
		t.Run(set, func(t *testing.T) {
			got := ""
			for _, object := range render(t, "--set", set) {
				spec, ok := podSpec(t, object)
				if !ok || spec.Containers[0].Name != "mic" {
					continue
				}
				for _, arg := range spec.Containers[0].Args {
					if strings.HasPrefix(arg, "--preassign-namespaces") {
						got = arg
					}
				}
			}
			if got != want {
				t.Errorf("argument %q, want %q", got, want)
			}
		})
	}
}
