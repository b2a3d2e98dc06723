module github.com/podid-io/podid/test/clients/report

go 1.26.0
