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
		if u, err := url.Parse(text); text != "" && (err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "") {
			errs = append(errs, fmt.Errorf("%s %q: expected https://host or https://host:port", flag, text))
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
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
	address := func(i int, scheme string) string {
		host, port, _ := net.SplitHostPort(listeners[i].Addr().String())
		if scheme == "https" && len(c.Hosts) > 0 {
			host = c.Hosts[0]
		}
		if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
			host = "localhost"
		}
		if (scheme == "https" && port == "443") || (scheme == "http" && port == "80") {
			if strings.Contains(host, ":") {
				host = "[" + host + "]"
			}
			return scheme + "://" + host
		}
		return scheme + "://" + net.JoinHostPort(host, port)
	}
	e := Endpoints{
		ARM: address(onARM, "https"), Entra: address(onEntra, "https"),
		IMDS: address(onIMDS, "http"), Control: address(onControl, "http"),
	}
	if c.ARMURL != "" {
		e.ARM = strings.TrimSuffix(c.ARMURL, "/")
	}
	if c.EntraURL != "" {
		e.Entra = strings.TrimSuffix(c.EntraURL, "/")
	}
	return e
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
