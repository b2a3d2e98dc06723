// Pid 1 of a node: builds the node's root, starts its services and restarts them, and reaps
// orphans.

package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Init runs a node's pid 1 until the context ends. The kernel then kills everything on the node.
func Init(ctx context.Context, specFile string) error {
	spec, err := ReadSpec(specFile)
	if err != nil {
		return err
	}
	if err := waitForStarter(); err != nil {
		return err
	}
	logs, err := openLogs(spec) // now: the machine's files are not visible later
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(logs[""], nil))
	if err := start(ctx, spec, logs, log); err != nil {
		log.Error("node does not start", "error", err)
		return err
	}
	<-ctx.Done()
	log.Info("node stops")
	return nil
}

func start(ctx context.Context, spec Spec, logs map[string]*os.File, log *slog.Logger) error {
	if err := setUp(spec); err != nil {
		return err
	}
	log.Info("ready for services", "cgroups", string(spec.Cgroups.Mode))
	sup := newSupervisor(ctx, log, spec.Env)
	for _, program := range spec.Before {
		if err := sup.runToEnd(ctx, program.Path, append([]string{program.Name}, program.Args...), logs[program.Name]); err != nil {
			return fmt.Errorf("run %s before the services: %w", program.Name, err)
		}
	}
	for i, svc := range spec.Services {
		sup.supervise(svc, logs[svc.Name])
		if svc.Socket != "" {
			if err := waitSocket(ctx, svc.Socket); err != nil {
				return fmt.Errorf("start %s: %w", svc.Name, err)
			}
			log.Info("service accepts connections", "service", svc.Name)
		}
		if i == 0 {
			if err := importImages(ctx, sup, spec.Images, logs[""]); err != nil {
				return err
			}
			log.Info("images are imported", "count", len(spec.Images))
		}
	}
	return nil
}

// setUp sets up what the services need around them.
func setUp(spec Spec) error {
	if spec.Plain {
		return ownProcesses()
	}
	if err := unix.Sethostname([]byte(spec.Hostname)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if err := enterRoot(spec); err != nil {
		return err
	}
	return spec.Cgroups.Mount()
}

// ownProcesses mounts /proc for this process namespace, visible only inside it.
func ownProcesses() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts to ourselves: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return nil
}

// waitForStarter returns when the process that launched this one has exited and so has left its
// control groups.
func waitForStarter() error {
	f := os.NewFile(goFD, "starter")
	if f == nil {
		return errors.New("node-init is started by `podid sandbox up` only")
	}
	defer func() { _ = f.Close() }()
	if _, err := io.Copy(io.Discard, f); err != nil {
		return fmt.Errorf("wait for the starter: %w", err)
	}
	return nil
}

// openLogs opens one log per service, and the node's own under the name "".
func openLogs(s Spec) (map[string]*os.File, error) {
	open := func(path string) (*os.File, error) {
		return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	}
	logs := map[string]*os.File{}
	own, err := open(s.Log)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	logs[""] = own
	for _, svc := range slices.Concat(s.Before, s.Services) {
		f, err := open(svc.Log)
		if err != nil {
			return nil, fmt.Errorf("open log of %s: %w", svc.Name, err)
		}
		logs[svc.Name] = f
	}
	return logs, nil
}

// importImages loads archives into containerd, for the kubelet's namespace.
func importImages(ctx context.Context, sup *supervisor, images []string, log *os.File) error {
	for _, image := range images {
		args := []string{"ctr", "--address", ContainerdSocket, "--namespace", "k8s.io", "images", "import", image}
		if err := sup.runToEnd(ctx, BinDir+"/ctr", args, log); err != nil {
			return fmt.Errorf("import image %s: %w", image, err)
		}
	}
	return nil
}

// waitSocket returns when the Unix socket accepts a connection. It polls for at most a minute,
// because a socket file does not show when a server listens on it.
func waitSocket(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", path)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("nothing listens on %s: %w", path, err)
		}
	}
}
