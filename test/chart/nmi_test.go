// What NMI, which is on every node and has a capability there, is allowed to be.

package chart

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
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

// Whatever the values, NMI has one capability and nothing of the node but its network and what it may read.
func TestNMIConfined(t *testing.T) {
	for name, values := range valueSets(t) {
		t.Run(name, func(t *testing.T) {
			spec := daemonSet(t, "--values", values).Spec.Template.Spec
			if len(spec.Containers) != 1 || len(spec.InitContainers) != 0 || len(spec.EphemeralContainers) != 0 {
				t.Fatal("NMI's pod has more than one container")
			}
			container := spec.Containers[0]
			confined(t, name, container) // NET_ADMIN alone, read-only root, no way to more
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
				if ofNode[mount.Name] && !mount.ReadOnly {
					t.Errorf("%s of the node is mounted for writing", mount.Name)
				}
			}
		})
	}
}

// A second pod must fit beside the first, and the grace and the probes must fit what nmi does (cmd/nmi/life.go).
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

// orNil is how intstr prints what is not set.
func orNil(s string) string {
	if s == "" {
		return "<nil>"
	}
	return s
}

// By default NMI's processor time is not cut, and what it sees of the node's files are folders that need not hold anything, and no more than it was told.
func TestNMIReads(t *testing.T) {
	spec := daemonSet(t).Spec.Template.Spec
	if !spec.Containers[0].Resources.Limits.Cpu().IsZero() {
		t.Error("NMI's processor time has a limit: a token would wait for its next slice")
	}
	for _, volume := range spec.Volumes {
		if volume.HostPath == nil {
			t.Errorf("%s is not of the node", volume.Name)
			continue
		}
		if kind := volume.HostPath.Type; kind == nil || *kind != corev1.HostPathDirectoryOrCreate {
			t.Errorf("%s must be there: pods would not start on nodes without it", volume.HostPath.Path)
		}
	}
}
