// Programs that act as pods.

package nmi

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"

	"github.com/podid-io/podid/test/bench/load"
	"github.com/podid-io/podid/test/bench/stage"
)

// sender is a program that sends requests from a network namespace of its own.
type sender struct {
	*stage.Program
	orders  *json.Encoder
	answers *json.Decoder
}

// startSender starts a sender in a control group, or in this program's own.
func (n *node) startSender(group *os.File) (*sender, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	p, err := n.stage.Start(stage.Launch{
		Name: rolePods, Path: self, Args: []string{"nmi"}, Env: []string{role + "=" + rolePods}, Talks: true, OwnNetwork: true, Group: group,
	})
	if err != nil {
		return nil, err
	}
	return &sender{p, json.NewEncoder(p.In()), json.NewDecoder(p.Out())}, nil
}

// join connects the sender's network to this one, by a link with that name here.
func (s *sender) join(name string) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	link := &netlink.Veth{LinkAttrs: attrs, PeerName: podLink, PeerNamespace: netlink.NsPid(s.PID())}
	if err := netlink.LinkAdd(link); err != nil {
		return nil, fmt.Errorf("join pods to the node: %w", err)
	}
	return link, nil
}

func (s *sender) order(o order) (load.Result, error) {
	if err := s.orders.Encode(o); err != nil {
		return load.Result{}, fmt.Errorf("tell the pods: %w: %s", err, s.Tail())
	}
	var a answer
	if err := s.answers.Decode(&a); err != nil {
		return load.Result{}, fmt.Errorf("hear from the pods: %w: %s", err, s.Tail())
	}
	if a.Error != "" {
		return a.Result, errors.New(a.Error)
	}
	return a.Result, nil
}

// send sends requests, and fails if one of them does.
func (s *sender) send(spec load.Spec) (load.Result, error) {
	r, err := s.order(order{Load: &spec})
	if err == nil && r.Failed > 0 {
		err = fmt.Errorf("%d of %d requests to %s failed: %s", r.Failed, r.Requests, spec.Target, r.Text)
	}
	return r, err
}
