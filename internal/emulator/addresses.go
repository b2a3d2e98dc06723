// Where the emulator may listen, and the addresses that it advertises to clients.

package emulator

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
)

// guard rejects addresses that other hosts could reach: the emulator issues tokens and has a
// control API without a password. In its own network namespace any address is allowed.
func (c Config) guard() error {
	var errs []error
	for flag, address := range map[string]string{
		"--arm-address": c.ARMAddress, "--entra-address": c.EntraAddress, "--imds-address": c.IMDSAddress,
		"--control-address": c.ControlAddress,
	} {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %q: expected host:port", flag, address))
			continue
		}
		if !isLoopback(host) && !c.AllowNonLoopback && !ownNamespace() {
			errs = append(errs, fmt.Errorf("%s %s: not a loopback address, and this is the machine's own network; use a "+
				"loopback address, a network namespace (unshare --net), or --allow-non-loopback", flag, address))
		}
	}
	for flag, text := range map[string]string{"--arm-url": c.ARMURL, "--entra-url": c.EntraURL} {
		if text != "" && !isOrigin(text) {
			errs = append(errs, fmt.Errorf("%s %q: expected https://host or https://host:port", flag, text))
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

// isOrigin reports whether text is https:// with a host, and nothing else.
func isOrigin(text string) bool {
	u, err := url.Parse(text)
	return err == nil && u.Scheme == "https" && u.Host != "" && strings.Trim(u.Path, "/") == ""
}

func isLoopback(host string) bool {
	address, err := netip.ParseAddr(host)
	return host == "localhost" || (err == nil && address.IsLoopback())
}

// ownNamespace reports whether this process has a network namespace of its own: one that differs
// from the namespace of the machine's first process or, if this process may not read that, one with
// only a loopback device.
func ownNamespace() bool {
	mine, err1 := os.Readlink("/proc/self/ns/net")
	first, err2 := os.Readlink("/proc/1/ns/net")
	if err1 == nil && err2 == nil {
		return mine != first
	}
	links, err := net.Interfaces()
	return err == nil && !slices.ContainsFunc(links, func(l net.Interface) bool { return l.Flags&net.FlagLoopback == 0 })
}

// endpoints returns the addresses to advertise to clients.
func (c Config) endpoints(listeners []net.Listener) Endpoints {
	e := Endpoints{
		ARM: c.origin(listeners[onARM], "https"), Entra: c.origin(listeners[onEntra], "https"),
		IMDS: c.origin(listeners[onIMDS], "http"), Control: c.origin(listeners[onControl], "http"),
	}
	if c.ARMURL != "" {
		e.ARM = strings.TrimSuffix(c.ARMURL, "/")
	}
	if c.EntraURL != "" {
		e.Entra = strings.TrimSuffix(c.EntraURL, "/")
	}
	return e
}

// origin returns the URL that clients use for a listener, without a port that the scheme implies.
func (c Config) origin(listener net.Listener, scheme string) string {
	host, port, _ := net.SplitHostPort(listener.Addr().String())
	if scheme == "https" && len(c.Hosts) > 0 {
		host = c.Hosts[0]
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		host = "localhost"
	}
	address := net.JoinHostPort(host, port)
	if port == map[string]string{"http": "80", "https": "443"}[scheme] {
		address = strings.TrimSuffix(address, ":"+port)
	}
	return scheme + "://" + address
}

// names returns the names that the server certificate must cover.
func (c Config) names(e Endpoints) []string {
	names := []string{"localhost", "127.0.0.1", "::1"}
	add := func(name string) {
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, host := range c.Hosts {
		add(host)
	}
	for _, address := range []string{c.ARMAddress, c.EntraAddress} {
		host, _, _ := net.SplitHostPort(address)
		add(host)
	}
	for _, text := range []string{e.ARM, e.Entra} {
		if u, err := url.Parse(text); err == nil {
			add(u.Hostname())
		}
	}
	return names
}
