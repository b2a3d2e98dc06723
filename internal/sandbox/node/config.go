// The configuration files of the programs on a node. All paths are as the node sees them.

package node

import (
	"fmt"
	"strings"

	"sigs.k8s.io/yaml"
)

// Paths inside every node.
const (
	BinDir           = "/opt/podid/bin"
	LibDir           = "/opt/podid/lib"
	ImageDir         = "/opt/podid/images"
	CNIBinDir        = "/opt/cni/bin"
	ConfigDir        = "/etc/podid"
	PKIDir           = "/opt/podid/pki"
	ContainerdSocket = "/run/containerd/containerd.sock"
	PauseImage       = "docker.io/podid/pause:1"
	// CiliumDir has Cilium's programs on nodes whose data plane it is.
	CiliumDir = "/opt/cilium"
)

// ContainerdConfig returns containerd's config.toml, whose layout depends on the major version.
func ContainerdConfig(major int) string {
	if major >= 2 {
		return containerdV3
	}
	return containerdV2
}

// restrict_oom_score_adj: without it, a sandbox that may not lower its score fails with an
// unexplained EOF. The disabled snapshotters need devices or file systems that a node does not
// have, and only slow down the start.
const containerdV2 = `version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]

[grpc]
  address = "` + ContainerdSocket + `"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "` + PauseImage + `"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "` + CNIBinDir + `"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "` + BinDir + `/runc"
        SystemdCgroup = false
`

const containerdV3 = `version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.nri.v1.nri"]

[grpc]
  address = "` + ContainerdSocket + `"

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "` + PauseImage + `"

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dir = "` + CNIBinDir + `"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        BinaryName = "` + BinDir + `/runc"
        SystemdCgroup = false
`

// ContainerdMajor returns the major version from the output of `containerd --version`, for example
// "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1" or "containerd
// containerd.io/v2 v2.1.0 …".
func ContainerdMajor(version string) (int, error) {
	fields := strings.Fields(version)
	if len(fields) >= 3 && fields[0] == "containerd" {
		var major int
		if _, err := fmt.Sscanf(strings.TrimPrefix(fields[2], "v"), "%d.", &major); err == nil && major > 0 {
			return major, nil
		}
	}
	return 0, fmt.Errorf("read containerd's version: %q is not what it usually prints", version)
}

// KubeletConfig returns the kubelet's configuration file.
//
// The eviction limits keep a small disk usable. Images are never collected, because there is no
// registry to pull them from again. The status is sent often enough for a crashed node to be
// noticed in seconds. A container that ends again and again is restarted after a second, not after
// up to five minutes.
func KubeletConfig(name string) (string, error) {
	type object map[string]any
	return marshal("kubelet", object{
		"apiVersion":                  "kubelet.config.k8s.io/v1beta1",
		"kind":                        "KubeletConfiguration",
		"failCgroupV1":                false,
		"cgroupDriver":                "cgroupfs",
		"oomScoreAdj":                 0,
		"failSwapOn":                  false,
		"containerRuntimeEndpoint":    "unix://" + ContainerdSocket,
		"authentication":              object{"anonymous": object{"enabled": false}, "webhook": object{"enabled": true}, "x509": object{"clientCAFile": PKIDir + "/ca.crt"}},
		"authorization":               object{"mode": "Webhook"},
		"tlsCertFile":                 PKIDir + "/" + name + ".crt",
		"tlsPrivateKeyFile":           PKIDir + "/" + name + ".key",
		"resolvConf":                  "/etc/resolv.conf",
		"imageGCHighThresholdPercent": 100,
		"imageGCLowThresholdPercent":  99,
		"evictionHard":                object{"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%"},
		"nodeStatusUpdateFrequency":   "4s",
		"volumePluginDir":             "/var/lib/kubelet/volumeplugins",
		"healthzBindAddress":          "127.0.0.1",
		"syncFrequency":               "10s",
		"featureGates":                object{"KubeletCrashLoopBackOffMax": true},
		"crashLoopBackOff":            object{"maxContainerRestartPeriod": "1s"},
	})
}

// ProxyConfig returns kube-proxy's configuration file. All conntrack values are 0 because they are
// machine-wide settings.
func ProxyConfig(name, podCIDR string) (string, error) {
	type object map[string]any
	return marshal("kube-proxy", object{
		"apiVersion":       "kubeproxy.config.k8s.io/v1alpha1",
		"kind":             "KubeProxyConfiguration",
		"mode":             "nftables",
		"clusterCIDR":      podCIDR,
		"clientConnection": object{"kubeconfig": PKIDir + "/proxy.kubeconfig"},
		"conntrack":        object{"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
		"nftables":         object{"minSyncPeriod": "100ms"},
		"hostnameOverride": name,
	})
}

func marshal(what string, doc any) (string, error) {
	b, err := yaml.Marshal(doc)
	if err != nil {
		return "", fmt.Errorf("write the configuration of %s: %w", what, err)
	}
	return string(b), nil
}
