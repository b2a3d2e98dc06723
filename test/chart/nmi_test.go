// The privileges of NMI, which runs on every node with one capability, or none beside a holder.

package chart

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// daemonSet renders the chart and returns NMI's DaemonSet.
func daemonSet(t *testing.T, args ...string) appsv1.DaemonSet {
	t.Helper()
	var found appsv1.DaemonSet
	for _, object := range render(t, args...) {
		if object.GetKind() == "DaemonSet" && object.GetLabels()["app.kubernetes.io/component"] == "nmi" {
			convert(t, object, &found)
			return found
		}
	}
	t.Fatal("no DaemonSet")
	return found
}

// Whatever the values, NMI has one capability at most and nothing of the node but its network, what
// it may read, and the folder of its socket for processes of the node.
func TestNMIConfined(t *testing.T) {
	for name, values := range valueSets(t) {
		t.Run(name, func(t *testing.T) {
			spec := daemonSet(t, "--values", values).Spec.Template.Spec
			if len(spec.Containers) > 2 || len(spec.InitContainers) != 0 || len(spec.EphemeralContainers) != 0 {
				t.Fatal("NMI's pod has more containers than NMI and the holder")
			}
			at := slices.IndexFunc(spec.Containers, func(c corev1.Container) bool { return c.Name == "nmi" })
			container := spec.Containers[at]
			confined(t, name, container, capabilities(spec, "nmi")) // read-only root, no privilege escalation
			if profile := container.SecurityContext.SeccompProfile; profile != nil {
				t.Errorf("the container has a seccomp profile of its own: %v", profile.Type)
			}
			if container.Command != nil || container.Lifecycle != nil {
				t.Error("NMI is started otherwise than by its image, or runs something besides")
			}
			if container.Resources.Limits.Memory().IsZero() || container.Resources.Requests.Memory().IsZero() {
				t.Error("NMI's memory has no bounds")
			}
			ofNode := map[string]bool{}
			for _, volume := range spec.Volumes {
				ofNode[volume.Name] = volume.HostPath != nil
			}
			for _, mount := range container.VolumeMounts {
				if ofNode[mount.Name] && !mount.ReadOnly && mount.Name != "host-socket" {
					t.Errorf("%s of the node is mounted for writing", mount.Name)
				}
			}
		})
	}
}

// A second pod must fit beside the first, and grace period and probes must match what nmi does
// (internal/agent/lifecycle).
func TestNMIUpdates(t *testing.T) {
	for name, test := range map[string]struct {
		args                 []string
		surge, unavailable   string
		strategy             appsv1.DaemonSetUpdateStrategyType
		withoutRollingUpdate bool
	}{
		"default":      {surge: "10%", unavailable: "0", strategy: appsv1.RollingUpdateDaemonSetStrategyType},
		"old values":   {args: []string{"--set", "nmi.updateStrategy.rollingUpdate.maxUnavailable=1"}, unavailable: "1", strategy: appsv1.RollingUpdateDaemonSetStrategyType},
		"other surge":  {args: []string{"--set", "nmi.updateStrategy.rollingUpdate.maxSurge=3"}, surge: "3", strategy: appsv1.RollingUpdateDaemonSetStrategyType},
		"on delete":    {args: []string{"--set", "nmi.updateStrategy.type=OnDelete"}, strategy: appsv1.OnDeleteDaemonSetStrategyType, withoutRollingUpdate: true},
		"set to null":  {args: []string{"--set", "nmi.updateStrategy=null"}, surge: "10%", unavailable: "0", strategy: appsv1.RollingUpdateDaemonSetStrategyType},
		"managed mode": {args: []string{"--set", "operationMode=managed"}, surge: "10%", unavailable: "0", strategy: appsv1.RollingUpdateDaemonSetStrategyType},
	} {
		t.Run(name, func(t *testing.T) {
			set := daemonSet(t, test.args...)
			if set.Spec.UpdateStrategy.Type != test.strategy {
				t.Errorf("strategy %s", set.Spec.UpdateStrategy.Type)
			}
			rolling := set.Spec.UpdateStrategy.RollingUpdate
			if test.withoutRollingUpdate != (rolling == nil) {
				t.Fatalf("rollingUpdate %v", rolling)
			}
			if rolling != nil && (rolling.MaxSurge.String() != orNil(test.surge) || rolling.MaxUnavailable.String() != orNil(test.unavailable)) {
				t.Errorf("surge %v, unavailable %v", rolling.MaxSurge, rolling.MaxUnavailable)
			}
			pod := set.Spec.Template.Spec
			if ports := pod.Containers[0].Ports; len(ports) != 0 {
				t.Errorf("ports of the node are declared (%v): the scheduler would not put two of these pods on one node", ports)
			}
			const drain, giveUp = 25, 40 // seconds
			if grace := pod.TerminationGracePeriodSeconds; grace == nil || *grace <= drain {
				t.Errorf("grace %v", grace)
			}
			if probe := pod.Containers[0].ReadinessProbe; probe.FailureThreshold*probe.PeriodSeconds <= giveUp {
				t.Error("the old pod is taken for ill before a new one that cannot get ready gives up")
			}
		})
	}
}

// orNil prints a missing value as intstr does.
func orNil(s string) string {
	if s == "" {
		return "<nil>"
	}
	return s
}

// By default NMI has no CPU limit, and all folders of the node that it mounts may be missing.
func TestNMIReads(t *testing.T) {
	spec := daemonSet(t).Spec.Template.Spec
	if !spec.Containers[0].Resources.Limits.Cpu().IsZero() {
		t.Error("NMI's processor time has a limit: a token would wait for its next slice")
	}
	for _, volume := range spec.Volumes {
		if volume.HostPath == nil || strings.HasPrefix(volume.HostPath.Path, "/sys/fs/") { // every node has those
			continue
		}
		if kind := volume.HostPath.Type; kind == nil || *kind != corev1.HostPathDirectoryOrCreate {
			t.Errorf("%s must be there: pods would not start on nodes without it", volume.HostPath.Path)
		}
	}
}

// No virtual node (virtual-kubelet) and no Windows node gets NMI or the Job of an uninstall,
// whatever node affinity the user adds: a pod that cannot run there would block updates.
func TestNoVirtualNodes(t *testing.T) {
	linux := map[string]string{"kubernetes.io/os": "linux"}
	virtual := map[string]string{"kubernetes.io/os": "linux", "type": "virtual-kubelet"}
	pool := map[string]string{"kubernetes.io/os": "linux", "pool": "a", "type": "user"}
	windows := map[string]string{"kubernetes.io/os": "windows", "pool": "a"}
	const terms = "nmi.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms"
	inPool := func(i int, value string) string {
		return fmt.Sprintf("%[1]s[%[2]d].matchExpressions[0].key=pool,%[1]s[%[2]d].matchExpressions[0].operator=In,%[1]s[%[2]d].matchExpressions[0].values[0]=%[3]s", terms, i, value)
	}
	for name, test := range map[string]struct {
		args []string
		on   []map[string]string
		off  []map[string]string
	}{
		"as it is":        {nil, []map[string]string{linux, pool}, []map[string]string{virtual, windows}},
		"one term":        {[]string{"--set", inPool(0, "a")}, []map[string]string{pool}, []map[string]string{virtual, windows, linux}},
		"two terms":       {[]string{"--set", inPool(0, "b"), "--set", inPool(1, "a")}, []map[string]string{pool}, []map[string]string{virtual, windows, linux}},
		"a field":         {[]string{"--set", terms + "[0].matchFields[0].key=metadata.name," + terms + "[0].matchFields[0].operator=In," + terms + "[0].matchFields[0].values[0]=node"}, []map[string]string{linux}, []map[string]string{virtual, windows}},
		"other affinity":  {[]string{"--set-json", `nmi.affinity={"podAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[]}}`}, []map[string]string{linux}, []map[string]string{virtual, windows}},
		"no nodeSelector": {[]string{"--set-json", `nmi.nodeSelector=null`}, []map[string]string{linux}, []map[string]string{virtual, windows}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, object := range render(t, append(test.args, "--set", "nmi.cleanupOnUninstall=true")...) {
				if kind := object.GetKind(); kind != "DaemonSet" && kind != "Job" {
					continue
				}
				spec, ok := podSpec(t, object)
				if !ok {
					t.Fatal("no pod in", object.GetKind())
				}
				for _, node := range test.on {
					if !schedulable(t, spec, node) {
						t.Errorf("%s: not on a node with labels %v", object.GetKind(), node)
					}
				}
				for _, node := range test.off {
					if schedulable(t, spec, node) {
						t.Errorf("%s: on a node with labels %v", object.GetKind(), node)
					}
				}
			}
		})
	}
}

// schedulable reports whether the pod may run on a node of that name, by the scheduler's rules.
func schedulable(t *testing.T, spec corev1.PodSpec, node map[string]string) bool {
	t.Helper()
	if !labels.SelectorFromSet(spec.NodeSelector).Matches(labels.Set(node)) {
		return false
	}
	for _, term := range spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		if matches(t, term.MatchExpressions, node) && matches(t, term.MatchFields, labels.Set{"metadata.name": "node"}) {
			return true
		}
	}
	return false
}

// matches reports whether all requirements are met; the operators are those of label selectors.
func matches(t *testing.T, requirements []corev1.NodeSelectorRequirement, values labels.Set) bool {
	t.Helper()
	operators := map[corev1.NodeSelectorOperator]selection.Operator{
		corev1.NodeSelectorOpIn: selection.In, corev1.NodeSelectorOpNotIn: selection.NotIn,
	}
	for _, r := range requirements {
		requirement, err := labels.NewRequirement(r.Key, operators[r.Operator], r.Values)
		if err != nil {
			t.Fatal(err)
		}
		if !requirement.Matches(values) {
			return false
		}
	}
	return true
}

// What processes of the node may request is a flag of the program, and the socket's folder is
// mounted for both.
func TestHostToken(t *testing.T) {
	for name, test := range map[string]struct {
		set, args string // separated by commas
		folder    string
	}{
		"default":        {"nmi.probePort=8085", "", ""},
		"socket":         {"nmi.hostToken.socket=/run/podid/host.sock", "--host-token-socket=/run/podid/host.sock", "/run/podid"},
		"socket alone":   {"nmi.hostToken.socket=/run/a/b/c,nmi.hostToken.tcp=false", "--host-token-tcp=false,--host-token-socket=/run/a/b/c", "/run/a/b"},
		"nothing":        {"nmi.hostToken.tcp=false", "--host-token-tcp=false", ""},
		"socket as null": {"nmi.hostToken.socket=null", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			spec := daemonSet(t, "--set", test.set).Spec.Template.Spec
			var args []string
			for _, arg := range spec.Containers[0].Args {
				if strings.HasPrefix(arg, "--host-token") {
					args = append(args, arg)
				}
			}
			if got := strings.Join(args, ","); got != test.args {
				t.Errorf("arguments %s, want %s", got, test.args)
			}
			folder, mounted := "", ""
			for _, volume := range spec.Volumes {
				if volume.Name == "host-socket" {
					folder = volume.HostPath.Path
				}
			}
			for _, mount := range spec.Containers[0].VolumeMounts {
				if mount.Name == "host-socket" {
					mounted = mount.MountPath
				}
			}
			if folder != test.folder || mounted != test.folder {
				t.Errorf("folder %q, mounted at %q, want %q", folder, mounted, test.folder)
			}
		})
	}
}

// NMI treats MIC's own identity as the cluster's if the values contain its client ID.
func TestClusterIdentities(t *testing.T) {
	const mic, other = "cccccccc-1111-2222-3333-444444444444", "dddddddd-1111-2222-3333-444444444444"
	for name, test := range map[string]struct {
		set  []string
		want []string // of the arguments
	}{
		"default":          {nil, nil},
		"MIC's":            {[]string{"adminsecret.useMSI=true", "adminsecret.userAssignedMSIClientID=" + mic}, []string{"--cluster-identities=" + mic}},
		"MIC's, no GUID":   {[]string{"adminsecret.useMSI=true", "adminsecret.userAssignedMSIClientID=unset"}, nil},
		"MIC's and others": {[]string{"adminsecret.useMSI=true", "adminsecret.userAssignedMSIClientID=" + mic, "clusterIdentities={" + other + "," + mic + "}"}, []string{"--cluster-identities=" + other + "," + mic}},
		"allowed":          {[]string{"allowClusterIdentities=true"}, []string{"--allow-cluster-identities=true"}},
	} {
		t.Run(name, func(t *testing.T) {
			var args []string
			for _, set := range test.set {
				args = append(args, "--set", set)
			}
			got := slices.DeleteFunc(daemonSet(t, args...).Spec.Template.Spec.Containers[0].Args, func(arg string) bool { return !strings.Contains(arg, "cluster-identities") })
			if !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// The probe on the node's network is sent where there is a holder. NMI with NET_ADMIN alone sends
// none.
func TestWireProbe(t *testing.T) {
	for values, want := range map[string]struct{ holder, probe bool }{
		"nmi.capture=wire":                       {false, false},
		"nmi.capture=wire,nmi.wireProbe=true":    {true, true},
		"nmi.wireProbe=false":                    {true, false},
		"nmi.capture=prefer":                     {true, true},
		"nmi.capture=prefer,nmi.wireProbe=false": {true, false},
		"nmi.capture=require,nmi.wireProbe=true": {true, true},
	} {
		holder, probe := false, false
		for _, c := range daemonSet(t, "--set", values).Spec.Template.Spec.Containers {
			holder = holder || c.Name == "holder"
			probe = probe || c.Name == "nmi" && !slices.Contains(c.Args, "--wire-probe=false")
		}
		if holder != want.holder || probe != want.probe {
			t.Errorf("%s: holder %v, probe %v", values, holder, probe)
		}
	}
}

// Beside a holder NMI has no privilege, and the holder no door: no port, no token for the API
// server, and nothing of the node for writing but the pins and its lock.
func TestHolder(t *testing.T) {
	for user, args := range map[int64][]string{
		65532: {"--set", "nmi.capture=require"},
		0:     {"--set", "nmi.capture=prefer,nmi.hostToken.socket=/run/podid-host/host.sock"}, // only root can make the socket
	} {
		spec := daemonSet(t, args...).Spec.Template.Spec
		nmi, holder := spec.Containers[0], spec.Containers[1]
		if holder.Name != "holder" || nmi.Name != "nmi" {
			t.Fatalf("containers %s, %s", holder.Name, nmi.Name)
		}
		if len(nmi.SecurityContext.Capabilities.Add) != 0 || *nmi.SecurityContext.RunAsUser != user {
			t.Errorf("NMI has privileges: %+v", nmi.SecurityContext)
		}
		if !slices.Contains(holder.Args, fmt.Sprint("--agent-user=", user)) {
			t.Errorf("the holder does not expect NMI's user %d: %v", user, holder.Args)
		}
		if len(holder.Ports) != 0 || holder.LivenessProbe.Exec == nil || holder.ReadinessProbe != nil || len(holder.Env) != 0 {
			t.Errorf("the holder has a door: %+v", holder)
		}
		for _, mount := range holder.VolumeMounts {
			if !mount.ReadOnly && !slices.Contains([]string{"holder", "holders", "bpf", "cgroup"}, mount.Name) {
				t.Errorf("the holder may write %s", mount.Name)
			}
		}
	}
}
