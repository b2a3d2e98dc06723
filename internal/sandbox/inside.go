// Running a shell or a program inside a running sandbox or on one of its nodes.

package sandbox

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/podid-io/podid/internal/sandbox/netns"
	"github.com/podid-io/podid/internal/sandbox/network"
	"github.com/podid-io/podid/internal/sandbox/node"
)

// tools returns the folder that comes first in PATH inside the sandbox.
func (l Layout) tools() string { return filepath.Join(l.Dir(), "bin") }

// linkTools links kubectl, in the cluster's version, and podid itself into the tools folder.
func (b *build) linkTools() error {
	if err := os.MkdirAll(b.layout.tools(), 0o755); err != nil {
		return fmt.Errorf("link tools: %w", err)
	}
	for name, target := range map[string]string{"kubectl": b.set.Path("kubectl"), "podid": b.sandbox.self} {
		if err := os.Symlink(target, filepath.Join(b.layout.tools(), name)); err != nil && !os.IsExist(err) {
			return fmt.Errorf("link tools: %w", err)
		}
	}
	return nil
}

// Environment returns the environment of a program inside the sandbox: the caller's, with the
// cluster's kubeconfig and tools, and without proxies, which are out of reach.
func (s *Sandbox) Environment(own []string) []string {
	var env []string
	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, e := range own {
		name, value, _ := strings.Cut(e, "=")
		switch strings.ToUpper(name) {
		case "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "KUBECONFIG":
		case "PATH":
			path = value
		default:
			env = append(env, e)
		}
	}
	return append(env, "PATH="+s.layout.tools()+":"+path, "KUBECONFIG="+s.layout.Kubeconfig(), "PODID_SANDBOX="+s.layout.Name)
}

// Switch returns the network namespace that reaches everything in the sandbox.
func (s *Sandbox) Switch() (netns.Namespace, error) {
	if _, err := s.layout.load(); err != nil {
		return "", err
	}
	plan, err := network.NewPlan(s.layout.Name, 1)
	if err != nil {
		return "", err
	}
	return plan.Switch, nil
}

// Exec replaces this program with another one inside the sandbox. It returns only on failure.
func (s *Sandbox) Exec(argv []string) error {
	ns, err := s.Switch()
	if err != nil {
		return err
	}
	env := s.Environment(os.Environ())
	path, err := lookPath(argv[0], s.layout.tools())
	if err != nil {
		return err
	}
	return ns.Exec(path, argv, env)
}

// Command prepares a program for RunInside.
func (s *Sandbox) Command(cmd *exec.Cmd) *exec.Cmd {
	cmd.Env = s.Environment(os.Environ())
	return cmd
}

// RunInside runs a prepared program inside the sandbox.
func (s *Sandbox) RunInside(cmd *exec.Cmd) error {
	ns, err := s.Switch()
	if err != nil {
		return err
	}
	return ns.Do(func() error {
		if err := cmd.Start(); err != nil {
			return err
		}
		return cmd.Wait()
	})
}

// ExecNode runs a program on a node, with the caller's terminal.
func (s *Sandbox) ExecNode(name string, argv []string) error {
	c, err := s.node(name)
	if err != nil {
		return err
	}
	return node.Exec(c.ID.PID, argv)
}

// node returns a running node.
func (s *Sandbox) node(name string) (Component, error) {
	state, err := s.layout.load()
	if err != nil {
		return Component{}, err
	}
	c, ok := state.component(name)
	if !ok || !c.Node {
		var names []string
		for _, c := range state.Components {
			if c.Node {
				names = append(names, c.Name)
			}
		}
		return Component{}, fmt.Errorf("there is no node %q; there are: %s", name, strings.Join(names, ", "))
	}
	if !c.ID.Alive() {
		return Component{}, fmt.Errorf("%s is not running: start it with `podid sandbox node start %s`", name, name)
	}
	return c, nil
}

func lookPath(name, first string) (string, error) {
	if !strings.Contains(name, "/") {
		if file := filepath.Join(first, name); isFile(file) {
			return file, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("find %s: %w", name, err)
	}
	return path, nil
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}
