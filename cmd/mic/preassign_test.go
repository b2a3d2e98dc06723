package main

import "testing"

func TestPreassignNamespaces(t *testing.T) {
	for _, c := range []struct {
		name, flag string
		team, web  bool
		wrong      bool
	}{
		{name: "all", flag: "*", team: true, web: true},
		{name: "none"},
		{name: "one", flag: "team", team: true},
		{name: "two", flag: " team, web,", team: true, web: true},
		{name: "one and all", flag: "web,*", team: true, web: true},
		{name: "no name", flag: "web,Team_1", web: true, wrong: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := preassignOptions{namespaces: c.flag}
			if err := o.validate(); (err != nil) != c.wrong {
				t.Errorf("error %v", err)
			}
			may := o.may()
			if may == nil {
				may = func(string) bool { return true }
			}
			if may("team") != c.team || may("web") != c.web || may("other") != (c.team && c.web && c.name != "two") {
				t.Errorf("team %v, web %v, other %v", may("team"), may("web"), may("other"))
			}
		})
	}
}
