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

	"github.com/google/go-cmp/cmp"
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
		"mirrored image":   {[]string{"image.repository=registry.example.com/oss/azure/aad-pod-identity"}, []string{"a mirror of it", "set mic.tag and nmi.tag"}},
		"old image name":   {[]string{"nmi.image=aad-pod-identity-nmi"}, []string{"aad-pod-identity-nmi:0.1.0 is an image of aad-pod-identity"}},
		"old tag":          {[]string{"image.repository=registry.example.com/mirror", "mic.tag=v1.8.17"}, []string{"mic.tag=v1.8.17 is a version of aad-pod-identity"}},
		"old number":       {[]string{"image.repository=registry.example.com/aad-pod-identity", "nmi.tag=1.5.5", "mic.tag=0.2.0"}, []string{"nmi.tag=1.5.5 is a version of aad-pod-identity"}},
		"old tag managed":  {[]string{"operationMode=managed", "crds.upgrade=true", "mic.tag=v1.8.17"}, []string{"mic.tag=v1.8.17 is a version"}},
		"shared account":   {[]string{"mic.serviceAccount.name=podid-nmi"}, []string{"are the same"}},
		"default account":  {[]string{"nmi.serviceAccount.name=default"}, []string{"nmi.serviceAccount.name is default"}},
		"null ports":       {[]string{"networkPolicy.enabled=true", "networkPolicy.ports=null"}, []string{"networkPolicy.ports is empty"}},
		"user agent":       {[]string{"customUserAgent=a\nb"}, []string{"/customUserAgent"}},
		"short lease":      {[]string{"mic.leaderElection.duration=3s900ms"}, []string{"3s900ms is too short", "4s or more"}},
		"no number":        {[]string{"mic.replicas=two"}, []string{"/mic/replicas"}},
		"capital keys":     {[]string{"adminsecret.ClientID=a"}, []string{"adminsecret.tenantID"}},
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
			if strings.Contains(err.Error(), "nil pointer") {
				t.Errorf("the chart crashes: %v", err)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %q: %v", want, err)
				}
			}
		})
	}
}

// A values file that lists the fields of adminsecret and fills none has no adminsecret.
func TestEmptyAdminsecret(t *testing.T) {
	want := text(t, render(t))
	set := "adminsecret.cloud=,adminsecret.clientID=,adminsecret.clientSecret=null,adminsecret.useMSI=false,adminsecret.existingSecret="
	if got := text(t, render(t, "--set", set)); got != want {
		t.Errorf("empty fields render something else\n%s", cmp.Diff(want, got))
	}
}

// Values files as people have them: what others refuse or misread works.
func TestRightValues(t *testing.T) {
	for name, set := range map[string]string{
		"own copy under the old name":   "image.repository=registry.example.com/aad-pod-identity,mic.tag=v0.1.0,nmi.tag=v0.1.0",
		"podid's own 1.2.3":             "mic.tag=1.2.3,nmi.tag=1.2.3",
		"this version, old repository":  "image.repository=registry.example.com/aad-pod-identity,mic.tag=0.1.0,nmi.tag=0.1.0",
		"a digest":                      "image.repository=registry.example.com/mirror,mic.tag=v1.8.17,mic.digest=sha256:0123456789012345678901234567890123456789012345678901234567890123",
		"no MIC, and managed":           "operationMode=managed,mic.tag=v1.8.17",
		"one account, and managed":      "operationMode=managed,mic.serviceAccount.name=podid-nmi",
		"shortest lease":                "mic.leaderElection.duration=4000ms",
		"long lease":                    "mic.leaderElection.duration=1m0.5s",
		"part of a secret, and managed": "operationMode=managed,adminsecret.clientID=a,adminsecret.TenantID=b",
		"short lease, and managed":      "operationMode=managed,mic.leaderElection.duration=1s",
	} {
		t.Run(name, func(t *testing.T) { render(t, "--set", set) })
	}
}

// A section or a scalar without a value has its default, as in a values file whose lines are all
// commented out.
func TestNullValues(t *testing.T) {
	want := text(t, render(t))
	scalars := []string{}
	for _, p := range properties(t) {
		switch lookup(defaultValues(t), p.name).(type) {
		case []any, map[string]any, nil:
			if !p.section() {
				continue
			}
			if got := text(t, render(t, "--set", p.name+"=null")); got != want {
				t.Errorf("%s=null renders something else\n%s", p.name, cmp.Diff(want, got))
			}
		default:
			scalars = append(scalars, p.name+"=null")
		}
	}
	if got := text(t, render(t, "--set", strings.Join(scalars, ","))); got != want {
		t.Errorf("scalars that are null render something else\n%s", cmp.Diff(want, got))
	}
}

// Terraform writes booleans and numbers as strings.
func TestTextValues(t *testing.T) {
	for name, change := range map[string]func(bool) bool{
		"as by default": func(b bool) bool { return b },
		"the opposite":  func(b bool) bool { return !b },
	} {
		t.Run(name, func(t *testing.T) {
			// The first two have rules about others, which the opposite of all values breaks.
			typed := "federation.limitToNodes=false,federation.enabled=true,mic.replicas=5,nmi.logVerbosity=4"
			asStrings := typed
			for _, p := range properties(t) {
				value, ok := lookup(defaultValues(t), p.name).(bool)
				if !ok || strings.Contains(typed, p.name+"=") {
					continue
				}
				typed += fmt.Sprintf(",%s=%t", p.name, change(value))
				asStrings += fmt.Sprintf(",%s=%t", p.name, change(value))
			}
			if diff := cmp.Diff(text(t, render(t, "--set", typed)), text(t, render(t, "--set-string", asStrings))); diff != "" {
				t.Errorf("strings render something else (-typed +strings)\n%s", diff)
			}
		})
	}
}

// off without quotes is a boolean in YAML.
func TestAuditLogOff(t *testing.T) {
	path := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(path, []byte("nmi:\n  auditLog: off\nidentityPolicy:\n  mode: off\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	args := daemonSet(t, "--values", path).Spec.Template.Spec.Containers[0].Args
	if !slices.Contains(args, "--audit-log=off") {
		t.Errorf("arguments %v", args)
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
